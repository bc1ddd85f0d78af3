#!/usr/bin/env bash
# Makes a Debian package in target/debian, of a release build or of the profile that is named:
#
#     docs/operating/deb.sh [PROFILE]
#
# It needs cargo-deb (cargo install cargo-deb --locked) and dpkg.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${1:-release}

cargo build --locked --bin qbulk --profile "$profile"
folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi
qbulk=${CARGO_TARGET_DIR:-target}/$folder/qbulk

# What the package has beside the program is made by it.
made=target/package
rm -rf "$made"
mkdir -p "$made/completions"
"$qbulk" man "$made/man"
gzip -9n "$made"/man/*.1
"$qbulk" completions bash >"$made/completions/bash"
"$qbulk" completions zsh >"$made/completions/zsh"
"$qbulk" completions fish >"$made/completions/fish"

cargo deb --locked --no-build --profile "$profile"
