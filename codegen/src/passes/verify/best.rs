//! The best of rows: what it is offered, and when it can be read.

use super::{INT, Mistake, Verifier, mistake};
use crate::ir::{Best, BestId, Elem, Stmt, Type, ValueId};

impl<'f> Verifier<'f> {
    /// A declaration.
    pub(super) fn best_of_rows(&self, best: &Best) -> Result<(), Mistake> {
        match best.count {
            _ if best.axis.index() >= self.func.axes.len() => mistake("an axis is unknown", ""),
            1..=Best::MOST => Ok(()),
            count => {
                mistake(format!("from 1 to {} of the best of a row are kept", Best::MOST), format!("these are {count}"))
            }
        }
    }

    fn best(&self, id: BestId) -> Result<&'f Best, Mistake> {
        self.func.bests.get(id.index()).map_or_else(|| mistake("the best of rows is unknown", ""), Ok)
    }

    /// What a loop or branch encloses. It leaves the best of rows as it finds it: settled or not.
    pub(super) fn enclosed(&mut self, stmt: &Stmt, body: &[Stmt], depth: usize) {
        let before = self.settled.clone();
        self.body(body, depth + 1);
        if let Some(at) = (0..before.len()).find(|&at| before[at] != self.settled[at]) {
            let name = &self.func.bests[at].name;
            let label = "what is settled in one is cleared in it";
            let found = mistake(format!("a loop or branch leaves `{name}` otherwise than it finds it"), label);
            let func = self.func;
            self.note(found, || func.show_stmt(stmt), stmt.loc);
            self.settled = before;
        }
    }

    pub(super) fn take(
        &self,
        best: BestId,
        scores: ValueId,
        first: ValueId,
        after: Option<[ValueId; 2]>,
    ) -> Result<(), Mistake> {
        let (rows, ty) = (self.best(best)?, self.of(scores));
        let fits = ty.rank() == 2 && ty.elem == Elem::F32 && ty.axes[0] == rows.axis;
        if !fits {
            let axis = &self.func.axes[rows.axis.index()].name;
            return mistake(
                format!("`{}` is offered f32 tiles whose rows are {axis}", rows.name),
                format!("this is {}", self.show(ty)),
            );
        }
        self.is("a column", first, &INT)?;
        if let Some([score, column]) = after {
            self.is("a score of each row", score, &Type::tile(Elem::F32, [rows.axis]))?;
            self.is("a column of each row", column, &Type::tile(Elem::I32, [rows.axis]))?;
        }
        if self.settled[best.index()] {
            return mistake(format!("`{}` is settled, and takes no more scores", rows.name), "clear it first");
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, best: BestId) -> Result<(), Mistake> {
        let name = &self.best(best)?.name;
        if std::mem::replace(&mut self.settled[best.index()], true) {
            return mistake(format!("`{name}` is settled already"), "");
        }
        Ok(())
    }

    pub(super) fn clear(&mut self, best: BestId) -> Result<(), Mistake> {
        self.best(best)?;
        self.settled[best.index()] = false;
        Ok(())
    }

    pub(super) fn read_best(&self, id: BestId, n: u32, elem: Elem) -> Result<Type, Mistake> {
        let best = self.best(id)?;
        if n >= best.count {
            return mistake(format!("`{}` keeps {}", best.name, best.count), format!("number {n} is none of them"));
        }
        if !self.settled[id.index()] {
            let message = format!("`{}` is read while it takes scores: each lane has its own", best.name);
            return mistake(message, "settle it first");
        }
        Ok(Type::tile(elem, [best.axis]))
    }
}
