"""The modules whose names are public: programs and plug-ins may import them."""

FACES = (
    "fewshot_bench",
    "fewshot_bench.api.sources",
    "fewshot_bench.backbones",
    "fewshot_bench.engines",
    "fewshot_bench.testing",
    "fewshot_bench.training",
    "fewshot_bench.training.provisional",
)
