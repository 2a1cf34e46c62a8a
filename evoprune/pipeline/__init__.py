"""The way of the data from config to tables: run, resume, evolve, sweep, export."""
