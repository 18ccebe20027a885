"""Settings of `lacewing up` that say what runs started in the Prefect form may ask of this machine."""

from pydantic import BaseModel, ConfigDict, Field


class FormConfig(BaseModel):
    """What a run from the form may read, write, reach and need. The command line is not bound by it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data_roots: list[str] = []
    """Folders whose files such runs may read, besides the workspace."""
    write_roots: list[str] = []
    """Folders, or addresses such as s3://bucket/path, in which such runs may keep MLflow's database and DVC's remote,
    besides the workspace."""
    hosts: list[str] = []
    """Hosts, `name` or `name:port`, that such runs may ask as helper, judge, MLflow or S3 server, and from which they
    may download although their address is private. Public addresses of data need not be listed; hf:// needs
    huggingface.co."""
    memory_gb: float = Field(default=0.0, ge=0.0)
    """Memory that such a run may need; 0 takes all of this machine's."""
