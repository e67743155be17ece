"""A real Ray job, as a user's script: `python job.py ray://127.0.0.1:PORT` prints what the workers computed."""

import sys

import ray  # type: ignore[import-not-found,unused-ignore]  # of the Ray environment, not of this one

TASKS = 8


def main(address: str) -> None:
    """Run TASKS tasks on the cluster behind `address` and print their results."""
    with ray.init(address, logging_level="error"):

        @ray.remote  # type: ignore[untyped-decorator,unused-ignore]  # of the Ray environment
        def square(number: int) -> int:
            return number * number

        print(ray.get([square.remote(number) for number in range(TASKS)], timeout=60))


if __name__ == "__main__":
    main(sys.argv[1])
