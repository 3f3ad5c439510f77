"""`farthing doctor`: a run -> what is wrong with it, in words."""

from farthing.verbs.terminal import JsonFlag, RunArg, console, print_json


def doctor(run: RunArg, as_json: JsonFlag = False) -> None:
    """Say in words what is wrong with a run, with the evidence and the knob to turn.

    [bold]Example[/bold]   farthing doctor runs/r1-zero-tiny-s0
    """
    from farthing import doctor as diagnosis
    from farthing.summary import open_run

    findings = diagnosis.diagnose(open_run(run))
    print_json(diagnosis.to_json(findings)) if as_json else diagnosis.render(findings, console)
