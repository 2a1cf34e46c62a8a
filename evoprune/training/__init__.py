"""Fitting, distillation and the settings that both need."""
