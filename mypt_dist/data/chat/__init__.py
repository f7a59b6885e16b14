"""Conversations to packed rows of tokens with masks, and back. Tools: nothing here is used while training."""

from mypt_dist.data.chat.export import export_conversations
from mypt_dist.data.chat.prepare import ChatReport, prepare_chat
from mypt_dist.data.chat.settings import ChatSettings

__all__ = ["ChatReport", "ChatSettings", "export_conversations", "prepare_chat"]
