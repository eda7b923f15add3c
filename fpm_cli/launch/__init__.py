"""The processes of a run, on one machine or many: ranks, heartbeat, hosts, SLURM."""
