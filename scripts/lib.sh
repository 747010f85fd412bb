# Shared by the provide scripts: sourced, never run. POSIX sh.
#
# Every provide script prints the path of a program on the last line of stdout, tells on stderr what it does, and
# exits 69 with instructions when there is nothing more it can do. It never waits for input.

checkout=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
servers="$checkout/.local/servers"
export DEBIAN_FRONTEND=noninteractive

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" = 0 ]; }

# at_least VERSION MAJOR MINOR
at_least() {
    version=${1#v}
    major=${version%%[!0-9]*}
    rest=${version#"$major"}
    minor=${rest#.}
    minor=${minor%%[!0-9]*}
    [ -n "$major" ] || return 1
    [ "$major" -gt "$2" ] || { [ "$major" -eq "$2" ] && [ "${minor:-0}" -ge "$3" ]; }
}

# Debian and Ubuntu: installs packages as root. Services are kept from starting: nobody asked for a running one.
apt_install() {
    is_root && have apt-get || return 1
    say "installing $* with apt-get"
    policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
        # An interrupted run must not leave the system unable to start services.
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT TERM HUP
    fi
    run_apt install -y --no-install-recommends "$@" ||
        { say "refreshing the package list" && run_apt update && run_apt install -y --no-install-recommends "$@"; }
    outcome=$?
    if [ -n "$policy" ]; then
        rm -f "$policy"
        trap - EXIT INT TERM HUP
    fi
    return $outcome
}

run_apt() {
    apt-get -q -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$@" </dev/null >&2
}

dnf_install() {
    is_root && have dnf || return 1
    say "installing $* with dnf"
    dnf install -y -q "$@" </dev/null >&2
}

# pip_fetch REQUIREMENT DIRECTORY: unpacks a Python package and nothing it depends on, outside the system's Python.
pip_fetch() {
    python=$(find_pip) || return 1
    say "fetching $1 with pip"
    unfinished="$2.unfinished.$$"
    rm -rf "$unfinished"
    mkdir -p "$unfinished"
    if "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile \
        --only-binary :all: --target "$unfinished" "$1" </dev/null >&2; then
        # Complete or absent, also when two runs meet.
        rm -rf "$2"
        mv "$unfinished" "$2"
    else
        rm -rf "$unfinished"
        return 1
    fi
}

find_pip() {
    for python in python3 python; do
        if have "$python" && "$python" -m pip --version >/dev/null 2>&1; then
            echo "$python"
            return 0
        fi
    done
    { apt_install python3 python3-pip || dnf_install python3 python3-pip; } && python3 -m pip --version >/dev/null 2>&1 &&
        echo python3
}

# link_program FILE: makes it findable for openwatch under .local/servers/bin.
link_program() {
    mkdir -p "$servers/bin"
    ln -sf "$1" "$servers/bin/${1##*/}.new.$$"
    mv -f "$servers/bin/${1##*/}.new.$$" "$servers/bin/${1##*/}"
}
