"""What a run leaves behind: its folder, its snapshots, its tables, and the way back to its networks."""
