"""The site that notes are published on."""
