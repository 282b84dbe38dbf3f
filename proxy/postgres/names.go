package postgres

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/pgwire"
)

// A statement's name on a server connection is ours: what all of them begin with, a part that belongs to the connection and is drawn
// anew whenever it is not certain what has become of its statements, and the number of the content. Clients never see it, unless they
// read pg_prepared_statements; then it is drawn anew as well.
//
// The letters that are drawn are capitals, so that SQL must write such a name as it is, in double quotes.

// Numbers that no content has.
const (
	noStatement           = iota // that there is no statement of
	outdatedStatement            // likewise; the error is put in other words: see misled
	takenStatement               // of the statement whose name a Parse takes that is to be refused: see parseTaken
	standInStatement             // of what is deallocated in the place of a client's
	deallocatingStatement        // of that DEALLOCATE
	lastOfOurs            = deallocatingStatement
)

// weir is how all of them begin, namePrefix how those of this process do.
const weir = "weir"

var namePrefix = drawPrefix(weir + "_")

// drawPrefix draws what names begin with.
func drawPrefix(before string) string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails; names of which some were seen must not tell the next
	return before + strings.ToUpper(strconv.FormatUint(binary.NativeEndian.Uint64(random[:]), 36)) + "_"
}

// prefix is what the names of statements on the server connection begin with.
func (k *link) prefix() string {
	prepared := &k.server.Prepared
	if prepared.Prefix == "" {
		prepared.Prefix = drawPrefix(namePrefix)
	}
	return prepared.Prefix
}

// appendName appends the name that statement number has on the server connection.
func (k *link) appendName(dst []byte, number uint64) []byte {
	return strconv.AppendUint(append(dst, k.prefix()...), number, 10)
}

func (k *link) nameLength(number uint64) int {
	n := len(k.prefix()) + 1
	for ; number >= 10; number /= 10 {
		n++
	}
	return n
}

// appendIdentifier appends the name as SQL writes it.
func (k *link) appendIdentifier(dst []byte, number uint64) []byte {
	return append(k.appendName(append(dst, '"'), number), '"')
}

// appendParse appends the Parse that prepares the text of a content under its number; 0: as the unnamed statement.
func (k *link) appendParse(dst []byte, text string, number uint64) []byte {
	n := len(text) + 1
	if number != 0 {
		n += k.nameLength(number)
	}
	dst = appendHeader(dst, pgwire.Parse, n)
	if number != 0 {
		dst = k.appendName(dst, number)
	}
	return append(append(dst, 0), text...)
}

// appendClose appends the Close of statement number.
func (k *link) appendClose(dst []byte, number uint64) []byte {
	dst = append(appendHeader(dst, pgwire.Close, 1+k.nameLength(number)+1), 'S')
	return append(k.appendName(dst, number), 0)
}

// ourName reads the number out of the first name of ours in b, and returns what is before and behind that.
func (k *link) ourName(b []byte) (number uint64, before, behind []byte, ok bool) {
	before, behind, ok = bytes.Cut(b, []byte(k.prefix()))
	for len(behind) > 0 && behind[0]-'0' < 10 {
		number = 10*number + uint64(behind[0]-'0')
		behind = behind[1:]
	}
	return number, before, behind, ok
}

// mostRestored is how many names are looked up for one message. Servers mention one or two; a client could have it say thousands.
const mostRestored = 8

// restoreNames puts the client's names of prepared statements in the place of ours in an error or notice at i.
func (k *link) restoreNames(r *rewriting, i int, body []byte) {
	number, before, behind, found := k.ourName(body)
	if !found {
		return
	}
	var changed []byte
	names := 0
	t := r.chunk[i]
	for ; found; number, before, behind, found = k.ourName(behind) {
		if stale := k.session.resource.outdated.Load(); number == outdatedStatement && stale != nil {
			changed, before = *stale, nil
			break
		}
		name := ""
		if names++; names <= mostRestored {
			name = k.nameOf(number, t == pgwire.ErrorResponse)
		}
		changed = append(append(changed, before...), name...)
	}
	changed = append(changed, before...)
	changed = bytes.Replace(changed, []byte(`Mprepared statement "" does`), []byte("Munnamed prepared statement does"), 1)
	r.cut(i, i+pgwire.HeaderSize+len(body))
	r.out = append(appendHeader(r.out, t, len(changed)), changed...)
}
