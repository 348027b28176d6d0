# What the tests are made of; included by the Makefile.

UNIT = $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/*.c))
TEST_CFLAGS = $(CFLAGS) $(LUA_CFLAGS) -I.

$(B)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -c $< -o $@
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(PASSES) $(B)/embedded.o $(B)/libruntime.a
	$(CC) $(SANITIZE) -o $@ $< $(PASSES) $(B)/embedded.o $(B)/libruntime.a $(EXLC_LIBS)
$(B)/make_checkpoint $(B)/compare: $(B)/%: tests/models/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< -lm
.PRECIOUS: $(B)/tests/%.o

QUICK = $(shell sed -n 's/^case \([^ ]*\).* quick.*/\1/p' tests/models/cases.txt)

TEST_PROGRAMS = $(B)/exlc $(B)/make_checkpoint $(B)/compare $(UNIT)
UNIT_TESTS = $(foreach u,$(UNIT),'unit $(notdir $u): $u')

test: $(TEST_PROGRAMS)
	@tests/run.sh $(UNIT_TESTS)

.PHONY: test test-long test-clients test-gpu
-include $(UNIT:=.d)

# Rewrites the marked regions of templates/ after a change of what exlc emits.
templates: $(B)/tests/unit/templates
	$< update
	$(MAKE) --no-print-directory all
.PHONY: templates
