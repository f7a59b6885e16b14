"""Conversations, how they are laid out in tokens, and what of them is learned. Loads no torch."""

from mypt_dist.chat.conversation import Conversation, Part, Turn
from mypt_dist.chat.formats import FORMATS, FormatName, read_conversation
from mypt_dist.chat.kinds import KINDS, KindWeights
from mypt_dist.chat.reading import ConversationError
from mypt_dist.chat.render import Rendered, Renderer
from mypt_dist.chat.template import MYPT, TEMPLATES, Template

__all__ = [
    "FORMATS",
    "KINDS",
    "MYPT",
    "TEMPLATES",
    "Conversation",
    "ConversationError",
    "FormatName",
    "KindWeights",
    "Part",
    "Rendered",
    "Renderer",
    "Template",
    "Turn",
    "read_conversation",
]
