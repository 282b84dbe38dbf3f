//go:build !race

package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Reading a text takes time in proportion to its length, whatever is in it, and not long at the length of the longest that is read.
func TestReadingATextIsLinear(t *testing.T) {
	fill := func(before, unit, after string) func(int) string {
		return func(n int) string { return before + strings.Repeat(unit, n/len(unit)) + after }
	}
	texts := map[string]func(n int) string{
		"comments that do not end, behind SET": fill("select set_config('a','b',false), '", "set /*", "'"),
		"comments up to the end, behind SET":   fill("select set_config('a','b',false), '", "set --", "'"),
		"SET of SET":                           fill("select set_config('a','b',false), '", "set ", "'"),
		"parts of names that are SET":          fill("select set_config('a','b',false), '", "set set.", "'"),
		"parts of a name":                      fill("set ", "a.", " = 1"),
		"set_config in a string":               fill("select '", "set_config(", "'"),
		"set_config":                           fill("select ", "set_config('a.b', 1, true), ", ""),
		"parentheses":                          fill("set_config", "(", ""),
		"parentheses behind EXPLAIN":           fill("explain ", "(", " set_config("),
		"strings":                              fill("set_config", "'', ", ""),
		"strings that may end elsewhere":       fill(`set_config(E'\\' '\\' `, "'' x ", ""),
		"functions that execute, in another":   fill("select ", "ts_stat('a', 'b', ", ""),
		"DO within DO":                         fill("do $$begin execute '", "do $a$ execute ''x''; $a$; ", "'; end$$"),
		"tags":                                 fill("set_config", "$a$ ", ""),
		"dollars":                              fill("set_config", "$a ", ""),
		"comments":                             fill("set_config", "/* ", ""),
		"DEALLOCATE and comments":              fill("do $$", "deallocate /*", "$$"),
		"DISCARD":                              fill("do $$", "discard ", "$$"),
		"underscores":                          fill("", "_", " set_config("),
		"the half of a name":                   fill("", "prepared_", " set_config("),
		"code points":                          fill("", `U&"a" uescape '!' `, " set_config("),
		"statements":                           fill("set_config", ";", ""),
		"names": func(n int) string {
			b := []byte("set_config")
			for i := 0; len(b) < n; i++ {
				b = fmt.Appendf(b, " set a.b%d = 1;", i)
			}
			return string(b)
		},
	}
	const short, long = longestRead / 16, longestRead - 1000
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			few, many := readingTime(text(short)), readingTime(text(long))
			t.Logf("%v, %v", few, many)
			if many > 2*time.Millisecond && many > 128*few { // 16 times as long a text, on a machine that may be busy; were it quadratic, 256 times
				t.Errorf("%d bytes take %v to read, %d bytes %v", short, few, long, many)
			}
		})
	}
}

// readingTime is how long it takes to read a text, the best of a few times.
func readingTime(text string) time.Duration {
	best := time.Hour
	for range 5 {
		began := time.Now()
		newContent(1, "", text+"\x00\x00\x00")
		best = min(best, time.Since(began))
	}
	return best
}
