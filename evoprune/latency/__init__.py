"""How long a layer or a whole network takes."""
