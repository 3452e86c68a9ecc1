"""A server process for tests: prints its address, then serves until a signal comes."""

from autodeploy.runtime.server import listen, run
from tests.server.engines import SlowModel, babbles

if __name__ == "__main__":
    with listen("127.0.0.1", 0) as listening:
        print(listening.getsockname()[1], flush=True)
        run(babbles(SlowModel), "tiny", listening)
