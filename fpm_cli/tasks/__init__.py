"""What a trained run is used for: language-model scoring and generation."""
