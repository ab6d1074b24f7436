"""`unbox collect`."""

from dataclasses import replace

from unbox.capture.collect_settings import CollectOptions, CollectSettings, OnBad
from unbox.cli.model_options import Group, ModelOptions
from unbox.errors import UnboxError
from unbox.validation import Count, FilePath, Processes, Rank, Several, Text, validated


@validated
class CollectCommand:
    """Generate an image for each prompt and keep what the blocks add to it in an activation store.

    Stopped at any moment, the same line makes what is missing. Several processes write one store together:
    under `torchrun`, each on the accelerator of its local rank, or started by hand with --rank and --world.
    """

    prompts: Text
    """shapes, hub:NAME or hub:NAME:CONFIG (streamed; NAME may be NAME@REVISION), or a file in UTF-8: .txt
    (one prompt a line), .csv, .jsonl, .parquet.
    """
    store: FilePath
    """Folder of the store; begun when it is not there."""
    limit: Count | None = None
    """At most so many prompts; needed with shapes, whose prompts have no end."""
    split: Text | None = None
    """Split of shapes (train, heldout) or of a Hub data set; None: train. Files have none."""
    column: Text | None = None
    """Column of the prompt in a table; None: the first of prompt, text and caption, in any case."""
    facts: Several[Text] | None = None
    """Columns of a table that are kept with each image; None: all that JSON can say. Of Parquet, on the Hub
    too, no others are read."""
    rank: Rank | None = None
    """Number of this process, from 0; None: RANK of the environment, else 0."""
    world: Processes | None = None
    """Number of processes that write the store; None: WORLD_SIZE of the environment, else 1."""
    on_bad: OnBad = "stop"
    """An image with NaN or infinite numbers, or over the range of the store's number format: stop; skip (it
    is marked absent, with its reason, and never tried again); float32 (it is made again alone, the model in
    float32, and absent if it is bad then too).
    """
    dry_run: bool = False
    """Keep nothing: make a few batches, write them beside the store's place, remove them, and say how many
    vectors, bytes and hours it would be, and how much memory.
    """
    gpus: Processes = 1
    """GPUs that a dry run plans for."""
    settings: Group[CollectSettings] = CollectSettings()
    model: Group[ModelOptions] = ModelOptions()

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return not self.dry_run

    def run(self) -> None:
        import os

        from unbox.capture import estimate, read_prompts
        from unbox.capture.collect import collect_run
        from unbox.capture.collect_settings import place_of
        from unbox.capture.prompt_reader import PromptFile
        from unbox.sae.distributed import local_device

        if self.prompts == "shapes" and self.limit is None:
            raise UnboxError("the prompts of shapes have no end: say how many with --limit")
        prompts = read_prompts(self.prompts, self.settings.seed, self.split, self.column, self.facts)
        if isinstance(prompts, PromptFile):  # what is wrong with a row is said before a model is loaded
            place = (0, 1) if self.dry_run else place_of(self.rank, self.world)
            prompts.check(*place, self.settings.prompt_weights)
        options = self.model
        if (
            options.device is None
            and "LOCAL_RANK" in os.environ
            and (gpu := local_device(None)).type == "cuda"
        ):
            options = replace(options, device=str(gpu))
        model, settings = options.load(), dict(vars(self.settings))
        limit = self.limit
        if self.dry_run:
            plan = estimate(model, prompts, limit=limit, beside=self.store, **settings)
            print("\n".join(plan.lines(self.gpus)))
            return
        settings |= {"rank": self.rank, "world": self.world, "on_bad": self.on_bad, "limit": limit}
        done = collect_run(model, prompts, self.store, CollectOptions(**settings))
        store = done.store
        vectors = sum(len(store[block]) for block in store.blocks)
        print(f"{self.store}: {len(store):,} images, {vectors:,} vectors of {', '.join(store.blocks)}")
        print("\n".join(done.lines()))
        if holes := store.missing(store.entries[-1].stop if store.entries else 0):
            missing = sum(stop - start for start, stop in holes)
            print(f"{missing:,} images before the last one are not there yet: other ranks make them")
