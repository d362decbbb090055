#include "team.h"
void cgru_team_run(int size, cgru_task *task, void *what) { (void)size; task(what, cgru_alone); }
void cgru_team_wait(cgru_member member) { (void)member; }
