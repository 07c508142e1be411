"""`python -m fewshot_bench` is `fsbench`."""

from fewshot_bench.cli.main import main

if __name__ == "__main__":
    main()
