"""The errors that this project raises on a user's mistake or a bad file.

Each derives from `Gpt2jaError` and from the builtin that a caller would expect, so both
``except Gpt2jaError`` and ``except ValueError`` work.
"""


class Gpt2jaError(Exception):
    """Base of every error of this project; its message is one line meant for people."""


class SettingError(Gpt2jaError, ValueError):
    """A setting is out of its range, or two settings exclude each other."""


class UnknownSettingError(SettingError, TypeError):
    """A name is no setting."""


class PromptError(Gpt2jaError, ValueError):
    """A prompt cannot be continued: it is empty, or longer than the context."""


class BundleError(Gpt2jaError, ValueError):
    """A bundle is missing, incomplete, altered, or of a version that is not understood."""


class OutputError(Gpt2jaError, OSError):
    """An output exists already, or cannot be written."""


class ProviderError(Gpt2jaError, RuntimeError):
    """onnxruntime, or the execution provider asked for, is not available here."""


class OutOfMemoryError(Gpt2jaError, MemoryError):
    """The device has no memory left for what was asked of it."""


class MissingExtraError(Gpt2jaError, ImportError):
    """A command needs packages of an extra that is not installed."""


class CheckpointError(Gpt2jaError, ValueError):
    """A checkpoint cannot be read, is not a GPT-2, or does not fit its tokenizer."""


class HubError(Gpt2jaError, ConnectionError):
    """The Hugging Face hub cannot be reached, or does not have what was asked for."""


class ExportError(Gpt2jaError, RuntimeError):
    """An exported graph lacks an expected fusion, or does not say what PyTorch says."""


class CorpusError(Gpt2jaError, ValueError):
    """A corpus is missing, empty, or too small for the split asked for."""


class GenerationError(Gpt2jaError, RuntimeError):
    """A request failed while it was being generated; other requests are not affected."""


class RequestTimeoutError(GenerationError, TimeoutError):
    """A request was not finished within its timeout."""


class CancelledError(GenerationError):
    """A request was cancelled before it was finished."""


class ClosedError(GenerationError):
    """The model was closed, or belongs to the process before a fork."""


class QueueFullError(GenerationError):
    """So many sequences or prompt tokens wait already that no further request is taken."""


class BatchError(Gpt2jaError, RuntimeError):
    """A batch job is not the one that its directory holds, is under way, or cannot go on."""


class BenchmarkError(Gpt2jaError, RuntimeError):
    """A benchmark cannot be run, or a report cannot be read."""
