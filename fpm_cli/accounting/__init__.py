"""What a model costs: parameters, FLOPs, memory, time, money. No torch here."""
