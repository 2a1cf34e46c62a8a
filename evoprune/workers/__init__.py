"""Workers that score and train: this process, or Ray actors."""
