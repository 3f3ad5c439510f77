"""`farthing import-gguf`: a GGUF file -> a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from farthing.errors import RunError
from farthing.verbs.terminal import console


def import_gguf(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Llama- or Qwen-family GGUF.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face folder to write.")],
) -> None:
    """Turn a GGUF file into a Hugging Face folder (fp32 safetensors, config, tokenizer).

    [bold]Example[/bold]   farthing import-gguf SmolLM2-135M-Instruct.Q4_1.gguf ./SmolLM2
    """
    from farthing.models.gguf import import_gguf as convert

    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; name a new folder")
    convert(file, folder)
    console.print(f"wrote {folder}; try: farthing generate {folder} 'What is 2 + 2?'", highlight=False)
