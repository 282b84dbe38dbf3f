package postgres

import (
	"strings"
	"testing"
)

// Where messages begin must not depend on the pieces they come in.
func TestFramesInPieces(t *testing.T) {
	stream := "Z\x00\x00\x00\x05I" + "c\x00\x00\x00\x04" + "d\x00\x00\x01\x04" + strings.Repeat("x", 256) + "E\x00\x00\x00\x06ab" + "d\x00\x00\x00\x09half"
	const want = "Z I, c , d " // and so on
	for size := 1; size <= len(stream); size++ {
		var f frames
		var got strings.Builder
		for rest := stream; rest != ""; {
			piece := rest[:min(size, len(rest))]
			rest = rest[len(piece):]
			for piece != "" {
				n, ended := f.next([]byte(piece))
				piece = piece[n:]
				if ended != f.between() {
					t.Fatalf("pieces of %d: ended is %t, between messages %t", size, ended, f.between())
				}
				if ended {
					got.WriteString(string(f.head[0]) + " " + string(f.body()) + ", ")
				}
			}
		}
		if want := want + strings.Repeat("x", len(f.kept)) + ", E ab, "; got.String() != want {
			t.Fatalf("pieces of %d: %q, want %q", size, got.String(), want)
		}
	}
}

func TestFramesOfGarbage(t *testing.T) {
	var f frames
	for _, b := range []string{"Z\x00\x00\x00\x05I", "Z\x00\x00\x00\x03", "c\x00\x00\x00\x04"} {
		n, ended := f.next([]byte(b))
		if n != len(b) || ended != (b[4] == 5) {
			t.Errorf("%q: used %d, ended %t", b, n, ended)
		}
	}
	if f.between() {
		t.Error("it takes itself to be between messages")
	}
}
