package limiter

const (
	// readFor is how much of a statement its fingerprint is made of, in bytes.
	readFor = 4 << 10

	hashSeed  = 14695981039346656037 // FNV-1a, 64 bits (Fowler, Noll and Vo)
	hashPrime = 1099511628211
)

// FingerprintOf reads a statement. Constants, lists of them of any length, comments, blanks and upper case make no difference.
// It reads strings and comments as a server with standard_conforming_strings does; a statement that is read otherwise only
// lands in another class.
func FingerprintOf(sql []byte) Fingerprint {
	sql = sql[:min(len(sql), readFor)]
	h, last := uint64(hashSeed), byte(0) // last is what was taken in last
	for i := 0; i < len(sql); {
		c := sql[i]
		if kind := kinds[c]; kind >= plain || kind == digit && kinds[last] >= word {
			last = folded[c]
			if kind == digit {
				last = '_' // as part of a name, whichever it is
			}
			h = (h ^ uint64(folded[c])) * hashPrime
			i++
			continue
		}
		switch end := blanksEnd(sql, i); {
		case end > i:
			i = end
			if i < len(sql) && kinds[last] >= word && (kinds[sql[i]] >= word || kinds[sql[i]] == digit) {
				last = ' '
				h = (h ^ ' ') * hashPrime
			}
			continue
		case constantEnd(sql, i) > i:
			i = listEnd(sql, constantEnd(sql, i))
			c = '?'
		default:
			i++
		}
		last = c
		h = (h ^ uint64(c)) * hashPrime
	}
	return Fingerprint(max(h, 1))
}

// Kinds of bytes, for the one comparison that most of them take.
const (
	special = iota // begins something else, perhaps
	blank
	digit
	plain // stands for itself
	word  // stands for itself, and is part of a name
)

// kinds are the kinds of bytes; those of other alphabets are letters, as they are in identifiers. folded is a byte in lower case.
var kinds, folded = func() (k, f [256]byte) {
	for c := range 256 {
		k[c], f[c] = plain, byte(c)
		switch {
		case c == ' ' || c >= '\t' && c <= '\r':
			k[c] = blank
		case c >= '0' && c <= '9':
			k[c] = digit
		case c >= 'A' && c <= 'Z':
			k[c], f[c] = word, byte(c)+'a'-'A'
		case c >= 'a' && c <= 'z', c == '_', c == '$', c >= 0x80:
			k[c] = word
		case c == '-', c == '/', c == '\'':
			k[c] = special
		}
	}
	return k, f
}()

// blanksEnd is behind the blanks and comments at i.
func blanksEnd(sql []byte, i int) int {
	for i < len(sql) {
		switch {
		case kinds[sql[i]] == blank:
			i++
		case sql[i] == '-' && next(sql, i) == '-':
			i = lineEnd(sql, i)
		case sql[i] == '/' && next(sql, i) == '*':
			i = blockEnd(sql, i)
		default:
			return i
		}
	}
	return i
}

// constantEnd is behind the number or string at i, or i.
func constantEnd(sql []byte, i int) int {
	switch {
	case i >= len(sql):
	case sql[i] == '\'':
		return stringEnd(sql, i)
	case kinds[sql[i]] == digit:
		return numberEnd(sql, i)
	}
	return i
}

// listEnd is behind the further constants, with commas before them, that follow the one that ends at i.
func listEnd(sql []byte, i int) int {
	for {
		comma := blanksEnd(sql, i)
		if comma >= len(sql) || sql[comma] != ',' {
			return i
		}
		from := blanksEnd(sql, comma+1)
		end := constantEnd(sql, from)
		if end == from {
			return i
		}
		i = end
	}
}

func next(sql []byte, i int) byte {
	if i+1 < len(sql) {
		return sql[i+1]
	}
	return 0
}

func lineEnd(sql []byte, i int) int {
	for i < len(sql) && sql[i] != '\n' {
		i++
	}
	return i
}

// blockEnd is behind the comment at i; they nest.
func blockEnd(sql []byte, i int) int {
	depth := 0
	for i < len(sql) {
		switch {
		case sql[i] == '/' && next(sql, i) == '*':
			depth++
			i++
		case sql[i] == '*' && next(sql, i) == '/':
			depth--
			i++
		}
		i++
		if depth == 0 {
			break
		}
	}
	return min(i, len(sql))
}

// stringEnd is behind the string at i; a quote in it is doubled.
func stringEnd(sql []byte, i int) int {
	for i++; i < len(sql); i++ {
		if sql[i] == '\'' {
			if next(sql, i) != '\'' {
				return i + 1
			}
			i++
		}
	}
	return i
}

func numberEnd(sql []byte, i int) int {
	for i < len(sql) && (kinds[sql[i]] == digit || sql[i] == '.' || kinds[sql[i]] == word && sql[i] != '$') {
		i++
	}
	return i
}
