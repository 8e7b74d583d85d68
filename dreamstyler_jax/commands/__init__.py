"""The command line: settings, and a module for each command."""
