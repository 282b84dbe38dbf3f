package postgres_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What ends statements counts when it is executed, whatever is already behind it (traps 16, 17, 22, 26).
func TestWhatEndsStatementsCountsWhereItIsExecuted(t *testing.T) {
	x := ready(1, parse("x", "SELECT 1"), synchronize)
	use := ready(1, bind("", "x"), execute("", 0), synchronize)
	all := func(sql string) []frontend { return []frontend{parse("", sql), bind("", ""), execute("", 0)} }
	second := []frontend{parse("x", "SELECT 2"), bind("", "x"), execute("", 0), synchronize}
	compare(t, map[string]scenario{
		"deallocating all, then parsing, in a batch": {script: []exchange{x, ready(1, append(all("DEALLOCATE ALL"), second...)...), use}},
		"discarding all, then parsing, in a batch":   {script: []exchange{x, ready(1, append(all("DISCARD ALL"), second...)...), use}},
		"discarding plans, then parsing, in a batch": {script: []exchange{x, ready(1, append(all("DISCARD PLANS"), second...)...), use}},
		"deallocating, then parsing, in a batch":     {script: []exchange{x, ready(1, append(all("DEALLOCATE x"), second...)...), use}},
		"deallocating, then binding, in a batch":     {script: []exchange{x, ready(1, append(all("DEALLOCATE x"), second[1:]...)...), x, use}},
		"deallocating all, then binding":             {script: []exchange{x, ready(1, append(all("DEALLOCATE ALL"), second[1:]...)...), x, use}},
		"deallocating all, then describing":          {script: []exchange{x, ready(1, append(all("DEALLOCATE ALL"), describe('S', "x"), synchronize)...), x, use}},
		"deallocating all, then closing":             {script: []exchange{x, ready(1, append(all("DEALLOCATE ALL"), closing('S', "x"), second[0], synchronize)...), use}},
		"deallocating in the batch before":           {script: []exchange{x, ready(2, append(append(all("DEALLOCATE x"), synchronize), second...)...), use}},
		"deallocating all in the batch before":       {script: []exchange{x, ready(2, append(append(all("DEALLOCATE ALL"), synchronize), second...)...), use}},
		"deallocating by a query before":             {script: []exchange{x, ready(2, append([]frontend{query("DEALLOCATE x")}, second...)...), use}},
		"deallocating all by a query before":         {script: []exchange{x, ready(2, append([]frontend{query("DEALLOCATE ALL")}, second...)...), use}},
		"deallocating by a query that fails":         {script: []exchange{x, ready(3, append([]frontend{query("DEALLOCATE nothing"), query("DEALLOCATE x, y")}, second...)...), use}},
		"deallocating all by a query that fails":     {script: []exchange{x, ready(2, append([]frontend{query("DEALLOCATE ALL; SELECT 1/0")}, second...)...), use}},
		"deallocating in a batch that fails":         {script: []exchange{x, ready(1, append(append(all("SELECT 1/0"), all("DEALLOCATE x")...), second...)...), use}},
		"deallocating in a batch that fails later":   {script: []exchange{x, ready(1, append(append(all("DEALLOCATE x"), all("SELECT 1/0")...), synchronize)...), use, x, use}},
		"deallocating in a block that is rolled back": {script: append([]exchange{x}, ready(1, query("BEGIN")), ready(1, append(all("DEALLOCATE x"), synchronize)...),
			ready(1, query("ROLLBACK")), use, x, use)},
		"deallocating, executed by flush": {script: []exchange{x, flushed(1, 'C', append(all("DEALLOCATE x"), flush)...), ready(1, second...), use}},
		"bound, and not executed": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("d", "DEALLOCATE a"), synchronize), ready(1, bind("", "d"), bind("", "a"), execute("", 0), synchronize),
			ready(1, bind("", "d"), synchronize), ready(1, bind("", "a"), execute("", 0), synchronize), ready(1, bind("p", "d"), bind("", "a"), execute("", 0), execute("p", 0), synchronize), ready(1, bind("", "a"), synchronize),
		}},
		"bound, replaced, closed": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("b", "SELECT 2"), parse("d", "DEALLOCATE a"), parse("e", "DEALLOCATE b"), synchronize),
			ready(1, bind("p", "d"), closing('P', "p"), bind("p", "e"), execute("p", 0), bind("", "a"), execute("", 0), synchronize),
			ready(1, bind("", "b"), synchronize), ready(1, bind("p", "d"), bind("p", "d"), synchronize), ready(1, bind("p", "d"), closing('P', "p"), execute("p", 0), synchronize), ready(1, bind("", "a"), synchronize),
		}},
		"bound, executed in another batch": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("d", "DEALLOCATE a"), synchronize), ready(1, query("BEGIN")), ready(1, bind("p", "d"), synchronize), ready(1, bind("", "a"), execute("", 0), synchronize),
			ready(1, execute("p", 0), parse("a", "SELECT 2"), bind("", "a"), execute("", 0), synchronize), ready(1, execute("p", 0), synchronize), ready(1, query("ROLLBACK")), ready(1, bind("", "a"), execute("", 0), synchronize),
		}},
		"bound before its statement was parsed": {script: []exchange{
			ready(1, parse("d", "DEALLOCATE a"), bind("", "d"), parse("a", "SELECT 1"), execute("", 0), bind("", "a"), synchronize), ready(1, bind("", "d"), execute("", 0), synchronize),
		}},
		"several at once": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("b", "SELECT 2"), parse("c", "SELECT 3"), parse("d", "DEALLOCATE a"), parse("e", "DEALLOCATE b"), synchronize),
			ready(1, bind("p", "d"), bind("q", "e"), execute("q", 0), bind("", "a"), execute("", 0), execute("p", 0), bind("", "c"), execute("", 0), synchronize),
			ready(1, bind("", "a"), synchronize), ready(1, bind("", "b"), synchronize), ready(1, bind("", "c"), execute("", 0), synchronize),
		}},
		"executed twice": {script: []exchange{ready(1, parse("a", "SELECT 1"), parse("d", "DEALLOCATE a"), synchronize), ready(1, bind("", "d"), execute("", 0), execute("", 0), synchronize), ready(1, bind("", "a"), synchronize)}},
		"by EXECUTE": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("d", "DEALLOCATE ALL"), synchronize), ready(2, query("EXECUTE d"), parse("a", "SELECT 2"), bind("", "a"), execute("", 0), synchronize),
		}},
		"a query byte by byte": {script: []exchange{
			ready(1, parse("a", "SELECT 1"), parse("b", "SELECT 2"), synchronize), dripping(ready(1, query("DEALLOCATE a"))), ready(1, bind("", "a"), synchronize), dripping(ready(1, query("EXECUTE b"))), dripping(ready(1, query("EXECUTE nothing"))),
		}},
		"a batch byte by byte": {script: []exchange{x, dripping(ready(1, append(all("DEALLOCATE x"), second...)...)), use}},
	})
}

// A name that is taken is refused where the server would, and as it would (trap 22).
func TestTakenNamesAreRefusedAsByTheServer(t *testing.T) {
	x := ready(1, parse("x", "SELECT 1"), synchronize)
	use := ready(1, bind("", "x"), execute("", 0), synchronize)
	again := func(sql string) exchange {
		return ready(1, parse("x", sql), bind("", "x"), execute("", 0), synchronize)
	}
	compare(t, map[string]scenario{
		"by the same":                 {script: []exchange{x, again("SELECT 1"), use}},
		"by another":                  {script: []exchange{x, again("SELECT 2"), use, again("SELECT 2"), use}},
		"by what is no SQL":           {script: []exchange{x, again("SELEC"), again("SELECT 1 FROM nothing"), again("SELECT 1; SELECT 2"), use}},
		"by nothing":                  {script: []exchange{x, again(""), use}},
		"in a failed block":           {script: append([]exchange{x}, ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")), again("SELECT 1"), again("ROLLBACK"), again(""), ready(1, query("ROLLBACK")), use)},
		"in a block":                  {script: append([]exchange{x}, ready(1, query("BEGIN")), again("SELECT 1"), again("SELECT 2"), ready(1, query("ROLLBACK")), use)},
		"by a very long one":          {script: []exchange{x, again("SELECT 1 /* " + strings.Repeat("x", 50_000) + "*/"), use}},
		"in the same batch":           {script: []exchange{ready(1, parse("x", "SELECT 1"), parse("x", "SELECT 2"), synchronize), use}},
		"behind a failed one":         {script: []exchange{ready(2, parse("x", "SELEC"), synchronize, parse("x", "SELECT 1"), synchronize), use}},
		"behind a skipped one":        {script: []exchange{ready(2, parse("", "SELEC"), parse("x", "SELECT 1"), synchronize, parse("x", "SELECT 2"), synchronize), use}},
		"behind a close that skipped": {script: []exchange{x, ready(2, parse("", "SELEC"), closing('S', "x"), synchronize, parse("x", "SELECT 2"), synchronize), use}},
		"behind one in flight":        {script: []exchange{ready(3, parse("x", "SELECT 1"), synchronize, parse("x", "SELECT 2"), synchronize, bind("", "x"), execute("", 0), synchronize)}},
		"without a sync":              {script: []exchange{x, flushed(1, 'E', parse("x", "SELECT 2"), flush), ready(1, parse("x", "SELECT 3"), synchronize), use}},
	})
}

// A simple query in the middle of a batch ends what was there (traps 16, 19).
func TestAQueryWithinABatchIsAnsweredAsByTheServer(t *testing.T) {
	named := []frontend{parse("s", "SELECT 1")}
	one := []frontend{bind("", "s"), execute("", 0)}
	join := func(lists ...[]frontend) (all []frontend) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	q := func(sql string) []frontend { return []frontend{query(sql)} }
	sync := []frontend{synchronize}
	after := []exchange{ready(1, join(one, sync)...), ready(1, query("SELECT 3")), ready(1, parse("", "SELECT 4"), bind("", ""), execute("", 0), synchronize)}
	scripts := map[string][]exchange{
		"parsed":                     {ready(2, join(named, q("SELECT 2"), sync)...)},
		"parsed and described":       {ready(2, join(named, []frontend{describe('S', "s")}, q("SELECT 2"), sync)...)},
		"parsed, described, flushed": {flushed(1, 'T', join(named, []frontend{describe('S', "s"), flush})...), ready(1, query("SELECT 2"))},
		"parsed, flushed, then COPY": {
			flushed(1, 'T', join(named, []frontend{describe('S', "s"), flush})...), ready(1, query("CREATE TEMP TABLE copied (v int)")),
			flushed(1, 'T', parse("c", "SELECT 1"), describe('S', "c"), flush), flushed(1, 'G', query("COPY copied FROM STDIN")), ready(1, data("1\n2\n"), copyDone), ready(1, query("DROP TABLE copied")),
		},
		"parsed, no sync":           {ready(1, join(named, q("SELECT 2"))...), ready(1, join(one, sync)...)},
		"parsed, used behind":       {ready(2, join(named, q("SELECT 2"), one, sync)...)},
		"unnamed, used behind":      {ready(2, parse("", "SELECT 1"), query("SELECT 2"), bind("", ""), execute("", 0), synchronize), ready(1, join(named, sync)...)},
		"closed":                    {ready(1, join(named, sync)...), ready(2, closing('S', "s"), query("SELECT 2"), parse("s", "SELECT 5"), synchronize)},
		"bound":                     {ready(2, join(named, one[:1], q("SELECT 2"), sync)...)},
		"bound, executed behind":    {ready(2, join(named, []frontend{bind("p", "s")}, q("SELECT 2"), []frontend{execute("p", 0)}, sync)...)},
		"twice":                     {ready(3, join(named, q("SELECT 2"), q("SELECT 3"), sync)...)},
		"behind an error":           {ready(1, join([]frontend{parse("", "SELEC")}, q("SELECT 2"), named, sync)...), ready(1, join(named, sync)...)},
		"behind an error, flushed":  {flushed(1, 'E', parse("", "SELEC"), flush), ready(1, join(q("SELECT 2"), named, sync)...), ready(1, join(named, sync)...)},
		"that fails":                {ready(2, join(named, q("SELECT 1/0"), one, sync)...)},
		"that fails, no sync":       {ready(1, join(named, q("SELECT 1/0"))...), ready(1, join(one, sync)...)},
		"that begins a block":       {ready(2, join(named, q("BEGIN"), one, sync)...), ready(1, query("COMMIT"))},
		"in a block":                {ready(1, query("BEGIN")), ready(2, join(named, one, q("SELECT 2"), one, sync)...), ready(1, query("COMMIT"))},
		"that fails in a block":     {ready(1, query("BEGIN")), ready(2, join(named, one, q("SELECT 1/0"), one, sync)...), ready(1, query("ROLLBACK"))},
		"that executes":             {ready(2, join(named, q("EXECUTE s"), sync)...)},
		"that executes what fails":  {ready(1, join([]frontend{parse("s", "SELEC")}, q("EXECUTE s"), sync)...), ready(1, join(named, sync)...)},
		"that executes, no sync":    {ready(1, join(named, q("EXECUTE s"))...)},
		"that deallocates":          {ready(2, join(named, q("DEALLOCATE s"), named, sync)...)},
		"that deallocates, skipped": {ready(1, join(named, sync)...), ready(1, join([]frontend{parse("", "SELEC")}, q("DEALLOCATE s"), q("EXECUTE s"), q("DEALLOCATE ALL"), sync)...)},
		"that is empty":             {ready(2, join(named, q(""), sync)...)},
		"byte by byte":              {dripping(ready(2, join(named, q("SELECT 2"), one, sync)...))},
		"a function call":           {ready(2, join(named, []frontend{&pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}}}, one, sync)...)},
	}
	scenarios := make(map[string]scenario)
	for name, script := range scripts {
		scenarios[name] = scenario{script: append(script, after...)}
	}
	executed := []exchange{ready(1, join(named, one, q("SELECT 2"))...), ready(1, synchronize)}
	scenarios["executed"] = scenario{keeps: true, script: append(executed, after...)} // PostgreSQL 18 is spoiled by it
	scenarios["executed, twice"] = scenario{keeps: true, script: append([]exchange{ready(3, join(named, one, q("SELECT 2"), one, q("SELECT 3"), sync)...)}, after...)}
	compare(t, scenarios)
}

// Queries, COPY, function calls, portals and what ends statements, all within batches (traps 16, 19, 22, 26, 28, 29).
func TestMixedPipelinesAreAnsweredAsByTheServer(t *testing.T) {
	p := parse("s", "SELECT 1")
	fc := &pgproto3.FunctionCall{Function: 99999999}
	setup := []string{"DROP TABLE IF EXISTS mixed; CREATE TABLE mixed (v int); GRANT ALL ON mixed TO PUBLIC"}
	compare(t, map[string]scenario{
		"COPY":                                         {setup: setup, script: []exchange{flushed(1, 'G', p, query("COPY mixed FROM STDIN")), ready(2, data("1\n"), copyDone, synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"COPY that fails":                              {setup: setup, script: []exchange{flushed(1, 'G', p, query("COPY mixed FROM STDIN")), ready(2, data("x\n"), copyDone, synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"COPY out":                                     {script: []exchange{ready(2, p, query("COPY (SELECT 1) TO STDOUT"), bind("", "s"), execute("", 0), synchronize)}},
		"a function that there is not":                 {script: []exchange{ready(2, p, fc, bind("", "s"), execute("", 0), synchronize)}},
		"closing, then a query":                        {script: []exchange{ready(2, p, closing('S', "s"), query("SELECT 2"), bind("", "s"), synchronize), ready(1, p, synchronize)}},
		"discarding all":                               {script: []exchange{ready(3, p, query("DISCARD ALL"), p, query("SELECT 1"), synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"deallocating by queries":                      {script: []exchange{ready(3, p, query("DEALLOCATE ALL"), p, query("DEALLOCATE s"), p, synchronize), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"a query between flushes":                      {script: []exchange{ready(2, query("SELECT 1"), synchronize, flush), ready(2, flush, query("SELECT 1"), synchronize)}},
		"an error, then queries, in a block":           {script: []exchange{ready(1, query("BEGIN")), ready(1, parse("x", "SELEC"), query("SELECT 1"), query("ROLLBACK"), synchronize), ready(1, query("ROLLBACK"))}},
		"executing and deallocating in a failed block": {script: []exchange{ready(1, p, synchronize), ready(1, query("BEGIN")), ready(1, query("SELECT 1/0")), ready(3, parse("y", "ROLLBACK"), query("EXECUTE s"), query("DEALLOCATE s"), synchronize), ready(1, query("ROLLBACK")), ready(1, bind("", "s"), execute("", 0), synchronize)}},
		"a portal over a query":                        {script: []exchange{ready(1, query("BEGIN")), ready(2, p, bind("p", "s"), query("SELECT 2"), execute("p", 0), synchronize), ready(1, query("COMMIT"))}},
		"a portal over a function call":                {script: []exchange{ready(1, query("BEGIN")), ready(2, p, bind("", "s"), &pgproto3.FunctionCall{Function: 870, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte("LOWER")}}, execute("", 0), synchronize), ready(1, query("COMMIT"))}},
		"deallocating what is half fetched":            {script: []exchange{ready(1, parse("g", "SELECT generate_series(1,5)"), parse("d", "DEALLOCATE g"), synchronize), ready(1, bind("p", "g"), execute("p", 2), bind("q", "d"), execute("q", 0), execute("p", 2), parse("g", "SELECT 7"), bind("", "g"), execute("", 0), synchronize)}},
		"deallocating with PREPARE":                    {script: []exchange{ready(1, parse("g", "SELECT 1"), parse("d", "deallocate prepare g"), synchronize), ready(1, bind("", "d"), describe('P', ""), execute("", 0), bind("", "g"), synchronize), ready(1, query("deallocate prepare all"))}},
		"deallocating with parameters":                 {script: []exchange{ready(1, parse("g", "SELECT 1"), parse("d", "deallocate g"), synchronize), ready(1, bindTo("d", "x"), execute("", 0), synchronize), ready(1, bind("", "d"), execute("", 1), synchronize), ready(1, bind("", "g"), synchronize)}},
		"deallocating by EXECUTE":                      {script: []exchange{ready(1, parse("g", "SELECT 1"), parse("d", "deallocate g"), synchronize), ready(1, query("EXECUTE d(1)")), ready(1, query("EXECUTE d")), ready(1, query("EXECUTE d")), ready(1, query("EXECUTE d; SELECT 1"))}},
	})
}
