#!/bin/sh
# Prints assembly that carries files in a program: embed.sh PATH=NAME ... . It defines the table
# that compiler/embedded.c searches: name, start, end; sorted by name, ended by zeros.
set -eu
printf '.section .rodata\n'
i=0
for pair; do
    printf '.balign 16\nfile_%d:\n.incbin "%s"\nfile_%d_end:\n.byte 0\nname_%d:\n.asciz "%s"\n' \
        $i "${pair%%=*}" $i $i "${pair#*=}"
    i=$((i + 1))
done
printf '.section .data.rel.ro,"aw"\n.balign 8\n.globl embedded_table\nembedded_table:\n'
i=0
for pair; do
    printf '%s %d\n' "${pair#*=}" $i
    i=$((i + 1))
done | LC_ALL=C sort | while read -r _ n; do
    printf '.quad name_%d, file_%d, file_%d_end\n' "$n" "$n" "$n"
done
printf '.quad 0, 0, 0\n.section .note.GNU-stack,"",@progbits\n'
