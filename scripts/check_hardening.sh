#!/bin/sh
# scripts/check_hardening.sh FILE...: is each program or library position independent, are its relocations read-only
# once it runs, is its stack guarded, are its buffers checked? Called by `make lint`.
status=0
# check FILE WHAT PATTERN OPTION...: readelf's output has the pattern.
check() {
    file=$1 what=$2 pattern=$3
    shift 3
    if ! readelf -W "$@" "$file" | grep -Eq "$pattern"; then
        echo "$file: missing: $what"
        status=1
    fi
}
for file; do
    check "$file" "position independent code" "Type: +DYN" -h
    check "$file" "read-only relocations" "GNU_RELRO" -l
    check "$file" "a stack that holds no code" "GNU_STACK.* RW " -l
    check "$file" "symbols bound at start" "BIND_NOW|Flags:.* NOW" -d
    check "$file" "stack guards" "__stack_chk_fail" --dyn-syms
    check "$file" "checked buffers" "_chk@" --dyn-syms
done
exit $status
