package postgres

import "testing"

// FuzzCommand holds readers of whole statements to bounds, and to the same answer whatever the case and whatever blanks are around.
func FuzzCommand(f *testing.F) {
	for _, seed := range []string{
		"", "BEGIN", "begin work isolation level serializable, read only, not deferrable;", "START TRANSACTION", "/* /* */ */ COMMIT -- x", "ROLLBACK AND NO CHAIN",
		"DEALLOCATE s", `DEALLOCATE PREPARE "a b"`, "deallocate prepare", `DEALLOCATE "`, "--", "/*", "BEGIN READ", "end;;",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sql []byte) {
		c, b := readCommand(sql)
		name, ok := deallocated(sql)
		padded := append(append([]byte(" \n"), sql...), "\n "...)
		if len(padded) > longestCommand {
			return
		}
		if again, block := readCommand(padded); again != c || block != b {
			t.Errorf("%q: %d %v, with blanks around %d %v", sql, c, b, again, block)
		}
		if again, is := deallocated(padded); again != name || is != ok {
			t.Errorf("%q: %q %t, with blanks around %q %t", sql, name, ok, again, is)
		}
		if c == beginCommand || c == startCommand {
			if again, block := readCommand(b.appendSQL(nil)); again != beginCommand || block != b {
				t.Errorf("%q is %v, and that %v", sql, b, block)
			}
		}
	})
}
