"""Classification tasks: definitions, readers, fine-tuning, scores, comparisons and submissions."""
