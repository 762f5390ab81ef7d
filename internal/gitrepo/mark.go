package gitrepo

import (
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// Mark identifies the commits that one job made. Their messages end in the trailer Forge-Job, which names the job, and in
// Forge-Job-Proof, an authentication code over installation, job, branch, parent and tree. Anyone can copy both lines into another
// commit, but there the code does not verify.
type Mark struct {
	Installation string
	Job          string
	Branch       string // short name of the branch that the job pushes to
	// Keys make the proof and verify it. Without keys commits carry no proof, and only Intended identifies the job's commit.
	Keys *secret.Keyring
	// Intended is the commit that the job wrote down before it pushed, empty for none. It needs no proof: an older version may have
	// made it, or its key may have left the ring.
	Intended string
	// After is a time before which the job made no commit. It is how far back [Client.FindJob] searches without a start.
	After time.Time
}

const (
	jobTrailer   = "Forge-Job"
	proofTrailer = "Forge-Job-Proof"
	proofPurpose = "the trailer Forge-Job-Proof of a commit" // of the authentication code; changing it invalidates every proof
)

// trailers returns the lines that end the message of a commit with this tree and parent. The parent of a first commit is zero.
func (m Mark) trailers(parent, tree plumbing.Hash) []string {
	lines := []string{jobTrailer + ": " + m.Job}
	if m.Keys != nil {
		lines = append(lines, proofTrailer+": "+m.Keys.Authenticate(proofPurpose, m.claim(parent, tree)...))
	}
	return lines
}

// claim is what a proof authenticates.
func (m Mark) claim(parent, tree plumbing.Hash) []string {
	return []string{m.Installation, m.Job, m.Branch, parent.String(), tree.String()}
}

// made reports whether the job made commit: it is the intended one, or its proof verifies. The trailer Forge-Job proves nothing. A
// job makes no merges.
func (m Mark) made(commit *object.Commit) bool {
	if m.Intended != "" && commit.Hash.String() == m.Intended {
		return true
	}
	proof, found := m.proof(commit.Message)
	if !found || m.Keys == nil || len(commit.ParentHashes) > 1 {
		return false
	}
	return m.Keys.Authentic(proof, proofPurpose, m.claim(parentOf(commit), commit.TreeHash)...)
}

// proof finds the job's proof in a message: its last two lines are the job's trailer and the proof.
func (m Mark) proof(message string) (string, bool) {
	before, last, _ := cutLast(strings.TrimSpace(message), "\n")
	_, named, _ := cutLast(before, "\n")
	proof, found := strings.CutPrefix(last, proofTrailer+": ")
	return proof, found && named == jobTrailer+": "+m.Job
}

// parentOf is a commit's first parent, zero for a first commit.
func parentOf(commit *object.Commit) plumbing.Hash {
	if len(commit.ParentHashes) == 0 {
		return plumbing.ZeroHash
	}
	return commit.ParentHashes[0]
}
