"""The nouns: one frozen record each, pure data, stored as they are."""
