"""What trackers take out of what they write; see `mypt_dist.redact`."""

from mypt_dist.redact import scrub, without_secrets, without_url_secrets

__all__ = ["scrub", "without_secrets", "without_url_secrets"]
