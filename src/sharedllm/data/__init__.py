"""Text and token data: readers and generators."""
