"""Ground floor: errors, files, settings, the machine, progress."""
