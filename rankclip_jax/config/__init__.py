"""The config: complete base, checks, durations, `config.json`."""
