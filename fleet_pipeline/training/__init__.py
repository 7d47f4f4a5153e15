"""How the demonstrator model `fleet-tiny` is made: `python -m fleet_pipeline.training make`.

    tasks     made-up tasks, from `tasks.toml`
    speakers  what an agent answers to a prompt, from `phrases.toml` and by copying
    corpus    (prompt, answer) pairs: the real protocol with a speaker as the engine
    tokens    the tokenizer
    network   stock Qwen3, with copying heads set at the start
    train     the loop
    layout    which prompts the model was trained on, as a number
    evaluate  the figures of the model card, from the results of a real run

Nothing else imports this package, and users need none of it: the checkpoint is in
`fleet_pipeline/models/fleet_tiny`.
"""
