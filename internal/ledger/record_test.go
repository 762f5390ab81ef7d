package ledger

import (
	"strings"
	"testing"
)

// A text that is taken apart comes together again, also where a longer one stood there before.
func TestTextsInParts(t *testing.T) {
	t.Parallel()
	kept := record{}
	for _, size := range []int{0, 300, 1, 63, 64, 65, 128, 200, 127} {
		want := strings.Repeat("ab", size)[:size]
		for fields := inParts("result", want); len(fields) > 0; fields = fields[2:] {
			part := fields[1].(string)
			if len(part) > shortField {
				t.Errorf("of %d bytes: a part of %d", size, len(part))
			}
			kept[fields[0].(string)] = part
		}
		if got := kept.text("result"); got != want {
			t.Errorf("of %d bytes: %d came back", size, len(got))
		}
	}
	whole := strings.Repeat("x", 300)
	if got := (record{"result": whole}).text("result"); got != whole {
		t.Errorf("of a whole text: %d bytes", len(got))
	}
	exact := strings.Repeat("x", shortField) // as an older version left it
	if got := (record{"result": exact}).text("result"); got != exact {
		t.Errorf("of a whole text of one part's length: %q", got)
	}
}
