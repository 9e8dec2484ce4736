# shellcheck shell=bash
# Sourced by the other scripts. `setup_volgen EXTRAS` makes the virtual environment, installs volgen from this checkout
# into it and activates it. A second call does nothing but activate, until pyproject.toml or TORCH_SPEC changes.
#
#   VENV        where the environment is (default: .venv in the checkout)
#   PYTHON      interpreter to make it with (default: the first of python3, python3.13, python3.12, python3.11 that is new enough)
#   TORCH_SPEC  what pip installs as torch (default: torch==2.13.0), for example "torch==2.8.0" or "./my-torch.whl"

VOLGEN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$VOLGEN_ROOT/.venv}
TORCH_SPEC=${TORCH_SPEC:-torch==2.13.0}
OLDEST_PYTHON=3.11

# Prints a line that stands out in a log, with the seconds since the script began.
step() { printf '\n== [%4d s] %s\n' "$SECONDS" "$*" >&2; }

# Prints one message and ends the script as bad usage does everywhere in volgen.
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info < (${OLDEST_PYTHON/./, }))" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python >= $OLDEST_PYTHON found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11}); set PYTHON to one"
}

setup_volgen() {
    local extras=${1:-} wanted python
    wanted=$(printf '%s\n' "$TORCH_SPEC" "$extras" "$VOLGEN_ROOT" | cat - "$VOLGEN_ROOT/pyproject.toml" | sha256sum | cut -d' ' -f1)
    if [[ ! -x $VENV/bin/python ]]; then
        python=$(find_python) || exit
        step "making the environment $VENV with $("$python" --version)"
        "$python" -m venv "$VENV" || fail "python -m venv failed (on Debian and Ubuntu: apt-get install python3-venv)"
    fi
    # Each set of extras has its stamp, so that the quickstart and the tests can share one environment.
    if [[ $(cat "$VENV/.volgen-installed${extras:+-$extras}" 2>/dev/null) != "$wanted" ]]; then
        step "installing $TORCH_SPEC (the longest download)"
        # DeepSpeed's build imports torch, so torch comes first and the build sees this environment (no isolation).
        # A new pip with it: that of Debian 12 looks for more than ten minutes for versions of boto that fit each other, this one for seconds.
        "$VENV/bin/python" -m pip install --quiet "pip>=25" "setuptools>=77,<90" wheel "$TORCH_SPEC"
        step "installing volgen${extras:+ with $extras}"
        # No op is compiled at install (nvcc may be absent although torch has CUDA): volgen uses none of them.
        DS_BUILD_OPS=0 DS_IGNORE_CUDA_DETECTION=1 \
            "$VENV/bin/python" -m pip install --quiet --no-build-isolation --editable "$VOLGEN_ROOT${extras:+[$extras]}" "$TORCH_SPEC"
        printf '%s\n' "$wanted" > "$VENV/.volgen-installed${extras:+-$extras}"
    fi
    export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
}

# For scripts that start volgen on many machines: nothing is installed, because all of them share one environment.
find_volgen() {
    if [[ -x $VENV/bin/python ]]; then
        export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
    fi
    python -c 'from volgen import __version__' 2>/dev/null ||
        fail "no volgen in $VENV, nor in the python on PATH; set VENV, or run bash launch/test.sh, which makes the environment"
}
