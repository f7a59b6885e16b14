"""Archives to files: regular files and folders alone, within limits, nowhere but in the folder they are given."""

from mypt_dist.data.archives.extract import Archive, extract
from mypt_dist.data.archives.kinds import Kind, kind_of, without_suffix
from mypt_dist.data.archives.limits import ExtractionLimits
from mypt_dist.data.archives.tree import ExtractedFile

__all__ = ["Archive", "ExtractedFile", "ExtractionLimits", "Kind", "extract", "kind_of", "without_suffix"]
