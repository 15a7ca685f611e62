"""The CPU backend against the engines a user could pick instead."""
