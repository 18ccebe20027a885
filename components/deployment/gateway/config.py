"""Settings of the gateway. Imports neither torch nor numpy: the command's process reads it too."""

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from components.deployment.config import ListenConfig

# Environment variable with the key of the server behind the gateway, if it asks for one.
UPSTREAM_KEY = "LACEWING_UPSTREAM_API_KEY"


class GatewayConfig(ListenConfig):
    """What `lacewing gateway` stands before: the small model's server, and the helper's."""

    upstream: str = Field("", validate_default=True)
    """Base URL of the server that runs the small model: llama.cpp, vLLM or SGLang, such as http://127.0.0.1:8080/v1.
    A key is read from LACEWING_UPSTREAM_API_KEY."""
    upstream_model: str = ""
    """The name of the small model there; empty: the first that the server lists."""
    upstream_timeout_seconds: PositiveFloat = 60.0
    """How long the server may take for one piece of an answer."""
    piece_tokens: PositiveInt = 32
    """Tokens asked of the server at once: streams and texts that end an answer advance by it. A new piece costs the
    server a look into its prefix cache. One token where tokens are drawn by a server without our plugin."""
    helper: str = ""
    """Base URL of an OpenAI-compatible server that answers the calls, such as http://127.0.0.1:8081/v1; empty: the
    helper of the bundle. A key is read from LACEWING_HELPER_API_KEY."""
    helper_model: str = ""
    """The name of the helper's model there."""

    @field_validator("upstream")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(
                f"upstream must be the base URL of a server, such as upstream=http://127.0.0.1:8080/v1; given {value!r}"
            )
        return value
