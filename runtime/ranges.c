// A bound is compared digit by digit: as long as a text agrees with it the next digit is bounded
// too, afterwards all digits are free. Readers round texts to doubles; that changes no order, so
// closed bounds hold for what they read as well.
#include "ranges.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 15 // before the point; all such numbers are exact in a double

#define PLACES 18 // behind the point of a bound

// A bound at or above zero: digits before and behind the point, without trailing zeros. Only zero
// may be open.
typedef struct {
    int64_t whole;
    char fraction[32];
    int open, set;
} Decimal;

static Expr digit_class(Grammar *g, int low, int high)
{
    Range r = {(uint32_t)('0' + low), (uint32_t)('0' + high)};
    return grammar_class(g, &r, 1, 0);
}

static Expr any_digits(Grammar *g, int min, int max)
{
    return grammar_repeat(g, digit_class(g, 0, 9), min, max);
}

// Digits of the numbers low .. high, texts of equal length.
static Expr digits_between(Grammar *g, const char *low, const char *high)
{
    int rest = (int)strlen(low) - 1, a = *low - '0', b = *high - '0';
    static const char nines[] = "9999999999999999999", zeros[] = "0000000000000000000";
    Expr all = grammar_choice(g);
    if (rest < 0) return grammar_text(g, "", 0);
    if (a == b)
        return grammar_join(g, 2, digit_class(g, a, a), digits_between(g, low + 1, high + 1));
    const char *top = nines + sizeof nines - 1 - rest, *bottom = zeros + sizeof zeros - 1 - rest;
    if (strcmp(low + 1, bottom) != 0) {
        grammar_add(g, all,
                    grammar_join(g, 2, digit_class(g, a, a), digits_between(g, low + 1, top)));
        a++;
    }
    if (strcmp(high + 1, top) != 0) {
        grammar_add(g, all,
                    grammar_join(g, 2, digit_class(g, b, b), digits_between(g, bottom, high + 1)));
        b--;
    }
    if (a <= b)
        grammar_add(g, all, grammar_join(g, 2, digit_class(g, a, b), any_digits(g, rest, rest)));
    return all;
}

// Whole numbers low .. high, at or above zero.
static Expr whole_between(Grammar *g, int64_t low, int64_t high)
{
    Expr all = grammar_choice(g);
    while (low <= high) {
        char a[24], b[24];
        int64_t end = 9; // of the numbers with as many digits
        while (end < low) end = 10 * end + 9;
        if (end > high) end = high;
        snprintf(a, sizeof a, "%lld", (long long)low);
        snprintf(b, sizeof b, "%lld", (long long)end);
        grammar_add(g, all, digits_between(g, a, b));
        low = end + 1;
    }
    return all;
}

// A bound with more digits behind the point than there may be, rounded up or down.
static void round_small(double value, int up, char *text, size_t room)
{
    double step = 0;
    for (int i = 0; i < 2; i++) {
        snprintf(text, room, "%.*f", PLACES, fmax(value + step, 0));
        double rounded = strtod(text, NULL);
        if (up ? rounded >= value : rounded <= value) break;
        step = up ? 1e-18 : -1e-18;
    }
}

// The bound of numbers of a sign, without it. `up`: those below it are out.
static Decimal decimal_of(Bound b, int sign, int up)
{
    Decimal d = {.set = b.set, .open = b.open};
    char text[64];
    double value = fabs(b.value);
    if (!b.set || b.value * sign < 0) return (Decimal){0};
    for (int digits = 15; digits <= 17; digits++) { // the shortest text
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    if (strchr(text, 'e')) round_small(value, up, text, sizeof text);
    d.whole = strtoll(text, NULL, 10);
    const char *point = strchr(text, '.');
    if (point) snprintf(d.fraction, sizeof d.fraction, "%s", point + 1);
    for (size_t n = strlen(d.fraction); n > 0 && d.fraction[n - 1] == '0';) d.fraction[--n] = 0;
    return d;
}

// Digits behind a point, all so far equal to those of the bounds that are given: NULL is none.
// `stop`: there may be no more. Negative when nothing is left.
static Expr fraction(Grammar *g, const char *low, const char *high, const Decimal *a,
                     const Decimal *b, int stop)
{
    if (low && !*low && !a->open) low = NULL;
    if (high && !*high) { // only zeros are left
        if (b->open || low) return -1;
        return stop ? grammar_text(g, "", 0) : grammar_text(g, "0", 1);
    }
    if (!low && !high) return any_digits(g, !stop, DIGITS);
    if (low && !*low && !high)
        return grammar_join(g, 3, grammar_repeat(g, digit_class(g, 0, 0), 0, DIGITS),
                            digit_class(g, 1, 9), any_digits(g, 0, DIGITS));
    int from = low && *low ? *low - '0' : 0, to = high ? *high - '0' : 9;
    Expr all = grammar_choice(g);
    int count = 0;
    if (stop && !low) grammar_add(g, all, grammar_text(g, "", 0)), count++;
    for (int c = from; c <= to; c++) {
        const char *next_low = low && c == from ? low + (*low != 0) : NULL;
        const char *next_high = high && c == to ? high + 1 : NULL;
        Expr rest = fraction(g, next_low, next_high, a, b, 1);
        if (rest < 0) continue;
        grammar_add(g, all, grammar_join(g, 2, digit_class(g, c, c), rest));
        count++;
    }
    return count ? all : -1;
}

// Numbers with a whole part and what may be behind it.
static int add_numbers(Grammar *g, Expr all, int64_t from, int64_t to, const Decimal *a,
                       const Decimal *b, int real)
{
    const char *low = a ? a->fraction : NULL, *high = b ? b->fraction : NULL;
    int whole = (!a || (!*low && !a->open)) && (!b || *high || !b->open), count = 0;
    if (from > to) return 0;
    if (whole) grammar_add(g, all, whole_between(g, from, to)), count++;
    Expr rest = real ? fraction(g, low, high, a, b, 0) : -1;
    if (rest >= 0) {
        grammar_add(g, all,
                    grammar_join(g, 3, whole_between(g, from, to), grammar_text(g, ".", 1), rest));
        count++;
    }
    return count;
}

// Numbers at or above zero between two bounds that are too.
static int add_above_zero(Grammar *g, Expr all, Decimal low, Decimal high, int real)
{
    int64_t most = 999999999999999;
    const Decimal *a = low.set && (low.open || *low.fraction) ? &low : NULL;
    const Decimal *b = high.set ? &high : NULL;
    if (!b) {
        while (most <= low.whole) most = 10 * most + 9;
        high.whole = most + 1;
    }
    if (low.whole == high.whole) return add_numbers(g, all, low.whole, low.whole, a, b, real);
    int count = a ? add_numbers(g, all, low.whole, low.whole, a, NULL, real) : 0;
    count += add_numbers(g, all, low.whole + (a != NULL), high.whole - 1, NULL, NULL, real);
    if (b) count += add_numbers(g, all, high.whole, high.whole, NULL, b, real);
    return count;
}

static Expr between(Grammar *g, Bound low, Bound high, int real)
{
    Bound zero = {1, 0, 0};
    Expr all = grammar_choice(g), below = grammar_choice(g);
    int count = 0;
    if ((low.set && fabs(low.value) >= 0x1p53) || (high.set && fabs(high.value) >= 0x1p53))
        return -1;
    if (low.set && high.set && low.value > high.value) return -1;
    if (!high.set || high.value >= 0) {
        Bound from = low.set && low.value >= 0 ? low : zero;
        count = add_above_zero(g, all, decimal_of(from, 1, 1), decimal_of(high, 1, 0), real);
    }
    if (!low.set || low.value < 0) {
        Bound from = high.set && high.value <= 0 ? high : zero;
        int negatives =
            add_above_zero(g, below, decimal_of(from, -1, 1), decimal_of(low, -1, 0), real);
        if (negatives) grammar_add(g, all, grammar_join(g, 2, grammar_text(g, "-", 1), below));
        count += negatives;
    }
    return count ? all : -1;
}

Expr ranges_whole(Grammar *g, Bound low, Bound high)
{
    // An open bound is the next whole number, closed.
    if (low.set) low.value = low.open ? floor(low.value) + 1 : ceil(low.value);
    if (high.set) high.value = high.open ? ceil(high.value) - 1 : floor(high.value);
    low.open = high.open = 0;
    return between(g, low, high, 0);
}

// An open bound is the next double, closed: digits behind that would be rounded to it. Behind zero
// there are always more.
static void close_bound(Bound *b, double towards)
{
    if (b->set && b->open && b->value != 0) *b = (Bound){1, 0, nextafter(b->value, towards)};
}

Expr ranges_real(Grammar *g, Bound low, Bound high)
{
    close_bound(&low, INFINITY);
    close_bound(&high, -INFINITY);
    return between(g, low, high, 1);
}
