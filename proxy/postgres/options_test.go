package postgres

import (
	"slices"
	"strings"
	"testing"
)

// FuzzStartupOptions reads any command line: whatever becomes of it, what it sets has a name that is a parameter's, and there is no more
// of it than was written.
func FuzzStartupOptions(f *testing.F) {
	for _, seed := range []string{
		"", "-c=", "-c =x", "--=", "--", "-", "-c", "-c -c", "-c a.b=c", "--a-b=c", `\`, `\\ `, `-c a.b=\ \\`, "-c user=x", "-c weir.deadline=1s -cweir.x=", "\t\v-c\fa=b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := splitOptions(line)
		st := &startup{options: line}
		err := st.takeOptions()
		if n := len(st.settings); n > len(words) {
			t.Errorf("%q has %d words and sets %d parameters", line, len(words), n)
		}
		for _, s := range st.settings {
			if slices.Contains(noParameters, s.Name) || strings.Contains(s.Name, "-") {
				t.Errorf("%q sets %q", line, s.Name)
			}
		}
		if slices.Contains(words, "") { // a backslash at the end, which cannot be said in another way
			return
		}
		var again strings.Builder
		for _, w := range words {
			for i := range len(w) {
				again.WriteByte('\\')
				again.WriteByte(w[i])
			}
			again.WriteByte(' ')
		}
		if got := splitOptions(again.String()); !slices.Equal(got, words) {
			t.Errorf("%q: %q, and each character for itself: %q", line, words, got)
		}
		if same := (&startup{options: again.String()}).takeOptions(); (same == nil) != (err == nil) {
			t.Errorf("%q: %v, then %v", line, err, same)
		}
	})
}
