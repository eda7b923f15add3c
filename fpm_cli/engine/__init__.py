"""The training engine around DeepSpeed: launch, step, schedule, checkpoint, resume, telemetry."""
