"""A checkpoint as a plan: device-neutral steps in the order of execution."""
