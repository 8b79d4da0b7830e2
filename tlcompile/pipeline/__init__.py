"""The stages in order, what feeds what. The only caller of the store.

    plan.py      Recipe -> the list of steps: the table of contents of a build
    stages.py    what each step does: hands artifacts from room to room
    step.py      a step, its key, and walking the list: build, look, why
    choose.py    which variant of a target ships
    facts.py     everything the report and the manifest say
    build.py     the whole: checks before any work, the steps, gates, publishing

Knows no options of any plug-in and no format.
"""
