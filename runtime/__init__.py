"""Run a checkpoint of masktools, with numpy alone or faster."""
