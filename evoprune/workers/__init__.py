"""Who scores and trains: this process, or Ray actors."""
