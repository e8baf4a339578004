"""One module for each system, each with a `build` function; `bench.systems` names them."""
