package pool

import (
	"crypto/rand"

	"github.com/weirproxy/weir/pgwire"
)

// ownStatement is the name of a statement of ours where clients have names of their own: nobody can know it.
var ownStatement = []byte("weir_" + rand.Text() + "\x00")

// AppendNamed appends statements by the extended protocol, each under a name, with a Sync behind them. A Query would end the unnamed statement,
// which a client may go on to use.
func AppendNamed(dst []byte, statements ...string) []byte {
	closing := func() { dst = pgwire.AppendMessage(dst, pgwire.Close, []byte{'S'}, ownStatement) }
	closing() // one that has failed may have been left
	for _, sql := range statements {
		dst = pgwire.AppendMessage(dst, pgwire.Parse, ownStatement, []byte(sql), []byte{0, 0, 0})
		dst = pgwire.AppendMessage(dst, pgwire.Bind, []byte{0}, ownStatement, make([]byte, 6))
		dst = pgwire.AppendMessage(dst, pgwire.Execute, make([]byte, 5))
		closing()
	}
	return pgwire.AppendMessage(dst, pgwire.Sync)
}
