#!/bin/sh
# tests/fuzz/run.sh PROGRAM [OPTION...]: one fuzz target (BUILD/fuzz/fuzz_NAME) from the seeds in tests/fuzz/seeds/NAME.
# Short form: RUNS inputs, the same ones each time. HDLUA_LONG=1: FUZZ_SECONDS of new ones; what reaches new code is
# kept in BUILD/fuzz/corpus/NAME for the next time. Prints one line of TAP and the counts; an input that fails is left beside PROGRAM.
program=$1
shift
target=$(basename "$program" | sed 's/^fuzz_//')
corpus=$(dirname "$program")/corpus/$target
dictionary=tests/fuzz/$target.dict
case $target in
cifar) length=6146 ;;
image | font) length=1024 ;;
audio) length=4096 ;;
ops) length=256 ;;
*) length=2048 ;;
esac
case $target in
audio | ops) runs=20000 ;;
*) runs=200000 ;;
esac
if [ "$HDLUA_LONG" = 1 ]; then
    set -- "-max_total_time=${FUZZ_SECONDS:-60}" "$@"
else
    rm -rf "$corpus"
    set -- -runs=$runs -seed=1 "$@"
fi
if [ -f "$dictionary" ]; then set -- "-dict=$dictionary" "$@"; fi
mkdir -p "$corpus"
# The quarantine of freed blocks would count as the target's memory. A closed standard error keeps messages off the log.
LSAN_OPTIONS=suppressions=tests/fuzz/leaks.txt ASAN_OPTIONS=quarantine_size_mb=16 \
    "$program" -max_len=$length -timeout=20 -rss_limit_mb=512 -print_final_stats=1 \
    -close_fd_mask="$([ "$target" = options ] && echo 2 || echo 0)" "-artifact_prefix=$program-" "$@" \
    "$corpus" "tests/fuzz/seeds/$target" >"$program.log" 2>&1
status=$?
stat() { sed -n "s/^stat::$1: *//p" "$program.log"; }
if [ $status = 0 ]; then
    echo "ok 1 - $target"
    echo "count: $(stat number_of_executed_units) inputs, $(stat average_exec_per_sec) a second," \
        "$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges and \2 features/p' "$program.log" | tail -n 1)," \
        "$(stat peak_rss_mb) MiB"
else
    tail -n 60 "$program.log"
    echo "not ok 1 - $target: exit status $status"
fi
exit $status
